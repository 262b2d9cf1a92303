"""Put every replicate of every arm into one table."""

from histoprompt.job import job
from histoprompt.summary import summarise_replicates

if __name__ == "__main__":
    with job(snakemake.log[0], "summarise_replicates"):
        summarise_replicates(
            snakemake.input.metrics,
            snakemake.input.classifiers,
            snakemake.output.table,
            snakemake.output.text,
            arms=snakemake.params.arms,
            seeds=snakemake.params.seeds,
            recluster=snakemake.params.recluster,
        )
