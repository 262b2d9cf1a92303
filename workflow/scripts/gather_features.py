"""Put the shards of an image set's features together."""

from histoprompt.arrays import gather_each
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "gather_features"):
        gather_each(
            (snakemake.input.embeddings, snakemake.input.matched, snakemake.input.paper),
            (snakemake.output.embeddings, snakemake.output.matched, snakemake.output.paper),
        )
