"""Measure what can be said of every image in words."""

from histoprompt.descriptors import describe_images
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "describe_images"):
        describe_images(snakemake.input[0], snakemake.output[0])
