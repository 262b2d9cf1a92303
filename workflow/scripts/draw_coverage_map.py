"""Draw a map of real and synthetic images, and the regions that image sets miss."""

from histoprompt.coverage_map import draw_coverage_map
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "draw_coverage_map"):
        draw_coverage_map(
            dict(zip(snakemake.params.names, snakemake.input.features, strict=True)),
            dict(zip(snakemake.params.names, snakemake.input.tables, strict=True)),
            dict(zip(snakemake.params.names, snakemake.input.images, strict=True)),
            snakemake.input.held_out,
            snakemake.input.assignments,
            snakemake.input.patches,
            snakemake.output.table,
            snakemake.output.regions,
            snakemake.output.figure,
            snakemake.output.examples,
            encoder=snakemake.params.map["encoder"],
            sample=snakemake.params.map["images"],
            regions=snakemake.params.map["regions"],
            neighbours=snakemake.params.map["neighbours"],
            min_dist=snakemake.params.map["min_dist"],
            coverage_neighbours=snakemake.params.coverage_neighbours,
            seed=snakemake.params.seed,
        )
