"""Gather an arm's shards into one data set, as HDF5 and as an image folder."""

from histoprompt.export import export_dataset
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "export_dataset"):
        export_dataset(
            snakemake.input.shards,
            snakemake.input.patches,
            snakemake.output.images,
            snakemake.output.table,
            snakemake.output.metadata,
            patch_size=snakemake.params.patch_size,
        )
