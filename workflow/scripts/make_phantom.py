"""Draw one split of the phantom."""

from histoprompt.job import job
from histoprompt.phantom import make_phantom

if __name__ == "__main__":
    with job(snakemake.log[0], "make_phantom"):
        make_phantom(
            snakemake.output.patches,
            snakemake.output.table,
            split=snakemake.wildcards.split,
            patches=snakemake.params.patches,
            slides=snakemake.params.slides,
            seed=snakemake.params.seed,
            patch_size=snakemake.params.patch_size,
            classes=snakemake.params.classes,
        )
