"""Train the embedded autoencoder."""

from histoprompt.foundation.autoencoder import train_autoencoder
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "train_autoencoder"):
        train_autoencoder(
            snakemake.input.tissue,
            snakemake.input.table,
            snakemake.input.textures,
            snakemake.output.model,
            snakemake.output.report,
            **snakemake.params.settings,
        )
