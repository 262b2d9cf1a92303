"""Features of an image set by one encoder: for the morphology, and for each protocol of the evaluation."""

from histoprompt.cards import own_cards
from histoprompt.features import extract_features
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "extract_features"), own_cards(snakemake.resources.gpu):
        extract_features(
            snakemake.input.images,
            snakemake.input.native,
            snakemake.output.embeddings,
            snakemake.output.matched,
            snakemake.output.paper,
            size=snakemake.params.size,
            kind=snakemake.params.kind,
            model=snakemake.params.model,
            revision=snakemake.params.revision,
            batch_size=snakemake.params.batch_size,
            dtype=snakemake.params.dtype,
            device=snakemake.params.device,
            threads=snakemake.threads,
            shard=snakemake.params.shard,
        )
