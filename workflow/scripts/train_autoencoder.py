"""Train the embedded autoencoder."""

from histoprompt.cards import own_cards
from histoprompt.foundation.autoencoder import train_autoencoder
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "train_autoencoder"), own_cards(snakemake.resources.gpu):
        train_autoencoder(
            snakemake.input.tissue,
            snakemake.input.table,
            snakemake.input.textures,
            snakemake.output.model,
            snakemake.output.report,
            **snakemake.params.settings,
        )
