"""Look for training images that the generator repeats."""

from histoprompt.job import job
from histoprompt.memorisation import find_copies

if __name__ == "__main__":
    with job(snakemake.log[0], "find_copies"):
        find_copies(
            snakemake.input.features,
            snakemake.input.table,
            snakemake.input.images,
            snakemake.input.train,
            snakemake.input.subset,
            snakemake.input.patches,
            snakemake.input.held_out,
            snakemake.input.kept,
            snakemake.output.report,
            snakemake.output.nearest,
            snakemake.output.pairs,
            name=snakemake.wildcards.sampled,
            encoder=snakemake.params.encoder,
            pairs=snakemake.params.pairs,
        )
