"""Write the cards of a study's models and data sets."""

from histoprompt.hub_cards.write import write_cards
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "write_cards"):
        write_cards(
            snakemake.params.folder,
            dict(zip(snakemake.params.models, snakemake.output.models, strict=True)),
            dict(zip(snakemake.params.arms, snakemake.output.datasets, strict=True)),
            study=snakemake.wildcards.study,
            source=snakemake.params.source,
            sizes=snakemake.params.sizes,
            generator=snakemake.params.generator,
            arms=snakemake.params.arms,
            images=snakemake.params.images,
            mixes=snakemake.params.mixes,
        )
