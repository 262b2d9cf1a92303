"""Put the arms of an ablation into one table and one figure."""

from histoprompt.ablations import summarise_ablation
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "summarise_ablation"):
        summarise_ablation(
            snakemake.input.metrics,
            snakemake.input.copies,
            snakemake.output.table,
            snakemake.output.text,
            snakemake.output.figure,
            name=snakemake.wildcards.ablation,
            title=snakemake.params.title,
            varies=snakemake.params.varies,
            arms=snakemake.params.arms,
        )
