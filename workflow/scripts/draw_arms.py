"""Draw images of every arm under one another."""

from histoprompt.grids import draw_arms
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "draw_arms"):
        draw_arms(
            dict(zip(snakemake.params.names, snakemake.input.images, strict=True)),
            dict(zip(snakemake.params.names, snakemake.input.tables, strict=True)),
            snakemake.output[0],
            titles=snakemake.params.titles,
            columns=snakemake.params.columns,
        )
