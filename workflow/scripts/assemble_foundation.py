"""Gather the embedded models and write their model card."""

from histoprompt.foundation.card import assemble_foundation
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "assemble_foundation"):
        assemble_foundation(
            snakemake.input.table,
            snakemake.input.models,
            snakemake.input.reports,
            snakemake.output.folder,
            recipe=snakemake.params.recipe,
        )
