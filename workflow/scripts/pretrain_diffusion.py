"""Train the embedded base model on tissue with captions of its stain's tone."""

from histoprompt.cards import own_cards
from histoprompt.foundation.diffusion import pretrain_diffusion
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "pretrain_diffusion"), own_cards(snakemake.resources.gpu):
        pretrain_diffusion(
            snakemake.input.tissue,
            snakemake.input.table,
            snakemake.input.vae,
            snakemake.output.model,
            snakemake.output.report,
            **snakemake.params.settings,
        )
