"""Encode the training and validation images once, for every arm that is trained on them."""

from histoprompt.cards import own_cards
from histoprompt.job import job
from histoprompt.latents import encode_latents

if __name__ == "__main__":
    with job(snakemake.log[0], "encode_latents"), own_cards(snakemake.resources.gpu):
        encode_latents(
            snakemake.input.patches,
            snakemake.input.subsets,
            snakemake.output.latents,
            snakemake.output.rows,
            model=snakemake.params.model,
            revision=snakemake.params.revision,
            resolution=snakemake.params.resolution,
            flip=snakemake.params.flip,
            batch_size=snakemake.params.batch_size,
            device=snakemake.params.device,
            threads=snakemake.threads,
            shard=snakemake.params.shard,
        )
