"""Find the morphologies: k-means on the train split, and every split's assignments."""

from histoprompt.clustering import cluster_embeddings
from histoprompt.job import job
from histoprompt.patches import SPLITS

if __name__ == "__main__":
    with job(snakemake.log[0], "cluster_embeddings"):
        cluster_embeddings(
            dict(zip(SPLITS, snakemake.input.embeddings, strict=True)),
            dict(zip(SPLITS, snakemake.input.kept, strict=True)),
            dict(zip(SPLITS, snakemake.input.tables, strict=True)),
            snakemake.output.centroids,
            dict(zip(SPLITS, snakemake.output.assignments, strict=True)),
            snakemake.output.quality,
            k=snakemake.params.k,
            n_init=snakemake.params.n_init,
            seed=snakemake.params.seed,
        )
