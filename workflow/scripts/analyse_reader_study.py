"""Check the readers' answers and say what they could tell."""

from histoprompt.job import job
from histoprompt.reader_study.analysis import analyse_reader_study

if __name__ == "__main__":
    with job(snakemake.log[0], "analyse_reader_study"):
        analyse_reader_study(
            snakemake.input.key,
            snakemake.input.answers,
            snakemake.output.report,
            snakemake.output.text,
            snakemake.output.readers,
            snakemake.output.kappa,
            snakemake.output.forest,
            snakemake.output.patches,
            folder=snakemake.params.folder,
            simulated=snakemake.params.simulated,
            margin=snakemake.params.margin,
            draws=snakemake.params.draws,
            seed=snakemake.params.seed,
        )
