"""Fine-tune the U-Net on an arm's prompts."""

from histoprompt.cards import own_cards
from histoprompt.finetune import finetune_diffusion
from histoprompt.job import job
from histoprompt.launching import run_stage

if __name__ == "__main__":
    with job(snakemake.log[0], "finetune_diffusion"), own_cards(snakemake.resources.gpu // snakemake.resources.nodes):
        run_stage(
            finetune_diffusion,
            snakemake.input.train,
            snakemake.input.valid,
            snakemake.input.latents_train,
            snakemake.input.rows_train,
            snakemake.input.latents_valid,
            snakemake.input.rows_valid,
            snakemake.output.manifest,
            snakemake.output.history,
            snakemake.output.grid,
            snakemake.output.timing,
            model=snakemake.params.model,
            revision=snakemake.params.revision,
            settings=snakemake.params.settings,
            seed=snakemake.params.seed,
            state_folder=snakemake.params.state,
            board_folder=snakemake.params.board,
            device=snakemake.params.device,
            threads=snakemake.threads,
            key=snakemake.params.code,
            processes=max(1, snakemake.resources.gpu),
            nodes=snakemake.resources.nodes,
            job_file=f"{snakemake.params.state}.job.json",
        )
