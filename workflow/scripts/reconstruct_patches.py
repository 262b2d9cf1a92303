"""Send real patches through the autoencoder and back: the floor of any arm."""

from histoprompt.cards import own_cards
from histoprompt.job import job
from histoprompt.latents import reconstruct_patches

if __name__ == "__main__":
    with job(snakemake.log[0], "reconstruct_patches"), own_cards(snakemake.resources.gpu):
        reconstruct_patches(
            snakemake.input[0],
            snakemake.output.images,
            snakemake.output.native or None,
            snakemake.output.report,
            model=snakemake.params.model,
            revision=snakemake.params.revision,
            resolution=snakemake.params.resolution,
            batch_size=snakemake.params.batch_size,
            device=snakemake.params.device,
            threads=snakemake.threads,
        )
