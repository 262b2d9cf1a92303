"""Draw how far the classifiers' probabilities can be believed."""

from histoprompt.job import job
from histoprompt.reliability import draw_reliability

if __name__ == "__main__":
    with job(snakemake.log[0], "draw_reliability"):
        draw_reliability(
            snakemake.input,
            snakemake.output.table,
            snakemake.output.figure,
            titles=snakemake.params.titles,
        )
