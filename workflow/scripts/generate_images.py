"""Sample one shard of an arm's images."""

from histoprompt.cards import own_cards
from histoprompt.job import job
from histoprompt.sampling import generate_images

if __name__ == "__main__":
    with job(snakemake.log[0], "generate_images"), own_cards(snakemake.resources.gpu):
        generate_images(
            snakemake.input.prompts,
            snakemake.input.model or None,
            snakemake.output.manifest,
            snakemake.output.timing,
            model=snakemake.params.model,
            revision=snakemake.params.revision,
            settings=snakemake.params.settings,
            seed=snakemake.params.seed,
            device=snakemake.params.device,
            threads=snakemake.threads,
            resolution=snakemake.params.resolution,
            shard=snakemake.params.shard,
        )
