"""Put every metric of the study into one table."""

from histoprompt.job import job
from histoprompt.summary import summarise_study

if __name__ == "__main__":
    with job(snakemake.log[0], "summarise_study"):
        summarise_study(
            snakemake.input.metrics,
            snakemake.input.classifiers,
            snakemake.input.copies,
            snakemake.output.table,
            snakemake.output.text,
            study=snakemake.wildcards.study,
            titles=snakemake.params.titles,
        )
