// What tokens can be coloured by. of(sequence, index) is the value; step(value) one of nine colours, or null.
import { number, percent } from "./format.js";

const clamp = (place) => Math.max(0, Math.min(8, Math.round(place)));
const trained = (sequence, index) => Boolean(sequence.trained[index]);
const sampled = (name) => (sequence, index) => (trained(sequence, index) ? sequence[name]?.[index] ?? null : null);
const gap = (sequence, index) => {
  const [ours, theirs] = [sampled("trainer_logprob")(sequence, index), sampled("logprob")(sequence, index)];
  return ours === null || theirs === null ? null : ours - theirs;
};
// Sixteenfold from the middle to either end.
const factor = (value) => clamp(4 + Math.log2(Math.max(value, 1e-9)));

export const SCALES = {
  mask: {
    title: "Mask", palette: "mask", of: (sequence, index) => (trained(sequence, index) ? 1 : 0), step: (value) => (value ? 8 : 0),
    say: (value) => (value ? "sampled by the policy: trained" : "not sampled: prompt, tool result or template"),
    legend: [[0, "not trained"], [8, "trained"]],
    about: "Which tokens the policy sampled: only these are trained.",
  },
  probability: {
    title: "Probability", palette: "down", of: sampled("logprob"), step: (value) => clamp(8 * (1 - Math.exp(value))),
    say: (value) => `${percent(Math.exp(value))} (log ${number(value)})`,
    legend: [[0, "100 %"], [2, "75 %"], [4, "50 %"], [6, "25 %"], [8, "0 %"]],
    about: "How likely the engine held each token that it sampled. Strong colour: a surprise.",
  },
  entropy: {
    title: "Entropy", palette: "down", of: sampled("entropy"), step: (value) => clamp(value * 2.5),
    say: (value) => `${number(value)} nats`, legend: [[0, "0"], [2, "0.8"], [4, "1.6"], [6, "2.4"], [8, "3.2 nats or more"]],
    about: "How open the choice was. Where it is 0 everywhere, nothing is explored.",
  },
  gap: {
    title: "Engine/trainer gap", palette: "both", of: gap, step: (value) => clamp(4 + value * 8),
    say: (value) => `${number(value)} (trainer’s log-prob less the engine’s)`, legend: [[0, "−0.5"], [2, "−0.25"], [4, "0"], [6, "0.25"], [8, "0.5"]],
    about: "How far engine and trainer disagree on the log-probability of a token. It should be close to 0.",
  },
  ratio: {
    title: "Importance ratio", palette: "both", of: sampled("ratio"), step: factor,
    say: (value) => number(value), legend: [[0, "1/16"], [2, "1/4"], [4, "1"], [6, "4"], [8, "16"]],
    about: "By what factor a token counts since the policy moved on. It should be close to 1.",
  },
  advantage: {
    title: "Advantage", palette: "both", of: sampled("advantage"), step: (value) => clamp(4 + value * 2),
    say: (value) => number(value), legend: [[0, "−2"], [2, "−1"], [4, "0"], [6, "1"], [8, "2"]],
    about: "Whether the update made a token likelier (above 0) or less likely (below 0).",
  },
  version: {
    title: "Policy version", palette: "kinds", of: (sequence, index) => (trained(sequence, index) ? sequence.policy_version[index] : null), step: (value) => value % 9,
    say: (value) => `version ${value}`, legend: null,
    about: "Which weights sampled each token. More than one in an episode: the weights changed while it was played.",
  },
};

export const known = (scale, sequences) =>
  sequences.some((sequence) => sequence.text.some((_, index) => (SCALES[scale].of(sequence, index) ?? null) !== null));
