"""Train the embedded evaluation encoder."""

from histoprompt.cards import own_cards
from histoprompt.foundation.residual_network import train_residual_network
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "train_residual_network"), own_cards(snakemake.resources.gpu):
        train_residual_network(
            snakemake.input.tissue,
            snakemake.input.table,
            snakemake.output.model,
            snakemake.output.report,
            **snakemake.params.settings,
        )
