"""Mark the patches that show no usable tissue, each with its reasons."""

from histoprompt.job import job
from histoprompt.outliers import filter_outliers

if __name__ == "__main__":
    with job(snakemake.log[0], "filter_outliers"):
        filter_outliers(
            snakemake.input.patches,
            snakemake.input.table,
            snakemake.output.kept,
            snakemake.output.dropped,
            thresholds=snakemake.params.thresholds,
        )
