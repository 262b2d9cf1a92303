"""Train the embedded embedder by self-distillation."""

from histoprompt.cards import own_cards
from histoprompt.foundation.vision_transformer import train_vision_transformer
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "train_vision_transformer"), own_cards(snakemake.resources.gpu):
        train_vision_transformer(
            snakemake.input.tissue,
            snakemake.input.table,
            snakemake.output.model,
            snakemake.output.report,
            **snakemake.params.settings,
        )
