"""Compare one image set with the held-out real patches."""

from histoprompt.job import job
from histoprompt.metrics import compute_metrics

if __name__ == "__main__":
    with job(snakemake.log[0], "compute_metrics"):
        compute_metrics(
            snakemake.input.features,
            snakemake.input.reference,
            snakemake.input.embeddings,
            snakemake.input.reference_embeddings,
            snakemake.input.kept,
            snakemake.input.table,
            snakemake.input.centroids,
            snakemake.output[0],
            name=snakemake.wildcards.sampled,
            spaces=snakemake.params.spaces,
            kinds=snakemake.params.kinds,
            missing=snakemake.params.missing,
            morphology_encoder=snakemake.params.morphology_encoder,
            sizes=snakemake.params.sizes,
            neighbours=snakemake.params.neighbours,
            subsamples=snakemake.params.subsamples,
            seed=snakemake.params.seed,
        )
