"""Fit the bins in which descriptors are put into words."""

from histoprompt.job import job
from histoprompt.vocabulary import bin_descriptors

if __name__ == "__main__":
    with job(snakemake.log[0], "bin_descriptors"):
        bin_descriptors(
            snakemake.input.train,
            snakemake.input.kept,
            snakemake.output[0],
            words=snakemake.params.words,
        )
