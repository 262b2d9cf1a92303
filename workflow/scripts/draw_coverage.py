"""Draw which morphologies every image set covers."""

from histoprompt.coverage import draw_coverage
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "draw_coverage"):
        draw_coverage(
            snakemake.input.metrics,
            snakemake.input.patches,
            snakemake.input.assignments,
            snakemake.output.table,
            snakemake.output.figure,
        )
