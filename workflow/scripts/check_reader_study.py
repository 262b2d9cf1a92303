"""Are there enough test patches for the reader study?"""

from histoprompt.job import job
from histoprompt.reader_study.make import check_reader_study

if __name__ == "__main__":
    with job(snakemake.log[0], "check_reader_study"):
        check_reader_study(
            snakemake.input.test,
            snakemake.input.clusters,
            snakemake.output[0],
            seed=snakemake.params.seed,
            arms=snakemake.params.arms,
            images=snakemake.params.images,
            blocks=snakemake.params.blocks,
            training=snakemake.params.training,
        )
