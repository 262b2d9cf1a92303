"""Metrics of some arms over the scale of guidance, as a table and a figure."""

from histoprompt.guidance import summarise_guidance
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "summarise_guidance"):
        summarise_guidance(
            snakemake.input,
            snakemake.output.table,
            snakemake.output.figure,
            arms=snakemake.params.arms,
            scales=snakemake.params.scales,
        )
