"""Write the report: everything the study found, on one page."""

from histoprompt.job import job
from histoprompt.report.write import write_report

if __name__ == "__main__":
    with job(snakemake.log[0], "write_report"):
        write_report(
            snakemake.params.folder,
            snakemake.output.page,
            snakemake.output.losses,
            study=snakemake.wildcards.study,
            seed=snakemake.params.seed,
            source=snakemake.params.source,
            sizes=snakemake.params.sizes,
            morphology=snakemake.params.morphology,
            arms=snakemake.params.arms,
            images=snakemake.params.images,
            mixes=snakemake.params.mixes,
            models=snakemake.params.models,
            ablations=snakemake.params.ablations,
            readers=snakemake.params.readers,
            descriptors=snakemake.params.descriptors,
            on_request=snakemake.params.on_request,
        )
