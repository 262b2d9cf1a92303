"""Put what images show of their prompts' descriptors into one table."""

from histoprompt.job import job
from histoprompt.wording import summarise_descriptors

if __name__ == "__main__":
    with job(snakemake.log[0], "summarise_descriptors"):
        summarise_descriptors(
            snakemake.input,
            snakemake.output.table,
            snakemake.output.text,
            study=snakemake.wildcards.study,
            titles=snakemake.params.titles,
        )
