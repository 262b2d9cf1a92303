"""Train a classifier at every point of a learning curve, and keep what it says of real test patches."""

from histoprompt.cards import own_cards
from histoprompt.classifier import train_learning_curve
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "train_learning_curve"), own_cards(snakemake.resources.gpu):
        train_learning_curve(
            snakemake.input.patches,
            snakemake.input.subset,
            snakemake.input.prompts,
            snakemake.input.images,
            snakemake.input.test,
            snakemake.output.predictions,
            snakemake.output.report,
            curve=snakemake.wildcards.curve,
            size=snakemake.params.size,
            real=snakemake.params.real,
            finetuned=snakemake.params.finetuned,
            settings=snakemake.params.settings,
            seed=int(snakemake.wildcards.seed),
            device=snakemake.params.device,
            threads=snakemake.threads,
        )
