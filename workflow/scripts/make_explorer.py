"""Make a page on which to look at every image of a study."""

from histoprompt.explorer.make import make_explorer
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "make_explorer"):
        make_explorer(
            dict(zip(snakemake.params.names, snakemake.input.images, strict=True)),
            dict(zip(snakemake.params.names, snakemake.input.tables, strict=True)),
            dict(zip(snakemake.params.names, snakemake.input.features, strict=True)),
            dict(zip(snakemake.params.arms, snakemake.input.nearest, strict=True)),
            dict(zip(snakemake.params.arms, snakemake.input.reports, strict=True)),
            snakemake.input.centroids,
            snakemake.input.assignments,
            snakemake.input.patches,
            snakemake.input.map,
            snakemake.output.page,
            snakemake.output.sheets,
            study=snakemake.wildcards.study,
            encoder=snakemake.params.encoder,
            titles=snakemake.params.titles,
            naming=snakemake.params.naming,
            own_clusters=snakemake.params.own_clusters,
            seed=snakemake.params.seed,
        )
