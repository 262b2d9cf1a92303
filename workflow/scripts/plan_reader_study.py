"""Tabulate what reader studies of several sizes would show."""

from histoprompt.job import job
from histoprompt.reader_study.planning import plan_reader_study

if __name__ == "__main__":
    with job(snakemake.log[0], "plan_reader_study"):
        plan_reader_study(
            snakemake.output.table,
            snakemake.output.text,
            readers=snakemake.params.readers,
            images=snakemake.params.images,
            margin=snakemake.params.margin,
            studies=snakemake.params.studies,
            draws=snakemake.params.draws,
            seed=snakemake.params.seed,
        )
