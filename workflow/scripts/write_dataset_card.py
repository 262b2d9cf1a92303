"""Write the card of a data set that was generated beyond the study's own."""

from histoprompt.hub_cards.write import write_dataset_card
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "write_dataset_card"):
        write_dataset_card(
            snakemake.params.folder,
            snakemake.output[0],
            study=snakemake.wildcards.study,
            source=snakemake.params.source,
            sizes=snakemake.params.sizes,
            generator=snakemake.params.generator,
            arm=snakemake.wildcards.arm,
            settings=snakemake.params.settings,
            request=snakemake.wildcards.request,
        )
