"""Train the embedded base model on pictures that are not tissue."""

from histoprompt.foundation.diffusion import pretrain_diffusion
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "pretrain_diffusion"):
        pretrain_diffusion(
            snakemake.input.textures,
            snakemake.input.captions,
            snakemake.input.autoencoder,
            snakemake.output.model,
            snakemake.output.report,
            **snakemake.params.settings,
        )
