"""Measure how valid clusterings are over a range of k."""

from histoprompt.clustering import sweep_clusters
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "sweep_clusters"):
        sweep_clusters(
            snakemake.input.embeddings,
            snakemake.input.kept,
            snakemake.output.table,
            snakemake.output.plot,
            ks=snakemake.params.ks,
            n_init=snakemake.params.n_init,
            silhouette_sample=snakemake.params.silhouette_sample,
            seed=snakemake.params.seed,
        )
