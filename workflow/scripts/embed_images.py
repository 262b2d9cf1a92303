"""Embed every image of a file with one encoder."""

from histoprompt.cards import own_cards
from histoprompt.embedding import embed_images
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "embed_images"), own_cards(snakemake.resources.gpu):
        embed_images(
            snakemake.input[0],
            snakemake.output[0],
            kind=snakemake.params.kind,
            model=snakemake.params.model,
            revision=snakemake.params.revision,
            batch_size=snakemake.params.batch_size,
            dtype=snakemake.params.dtype,
            device=snakemake.params.device,
            threads=snakemake.threads,
            shard=snakemake.params.shard,
        )
