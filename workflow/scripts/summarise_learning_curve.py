"""What synthetic images are worth in real ones, as a table, a page and a figure."""

from histoprompt.job import job
from histoprompt.learning_curve import summarise_learning_curve

if __name__ == "__main__":
    with job(snakemake.log[0], "summarise_learning_curve"):
        summarise_learning_curve(
            snakemake.input.reports,
            snakemake.input.predictions,
            snakemake.input.test,
            snakemake.output.table,
            snakemake.output.text,
            snakemake.output.figure,
            study=snakemake.wildcards.study,
            titles=snakemake.params.titles,
        )
