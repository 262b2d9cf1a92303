"""Make the page of a reader study and its key."""

from histoprompt.job import job
from histoprompt.reader_study.make import make_reader_study

if __name__ == "__main__":
    with job(snakemake.log[0], "make_reader_study"):
        make_reader_study(
            snakemake.input.test,
            snakemake.input.clusters,
            snakemake.input.centroids,
            snakemake.input.samples,
            snakemake.input.tables,
            snakemake.input.features,
            snakemake.output.page,
            snakemake.output.key,
            study=snakemake.wildcards.study,
            seed=snakemake.params.seed,
            arms=snakemake.params.arms,
            images=snakemake.params.images,
            blocks=snakemake.params.blocks,
            repeats=snakemake.params.repeats,
            training=snakemake.params.training,
            display=snakemake.params.display,
            size=snakemake.params.size,
            diagnosis=snakemake.params.diagnosis,
        )
