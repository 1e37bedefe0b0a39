// The next token, by the steps of transformers' `generate`: repetition penalty, temperature, top-k, top-p, a draw. The
// draws come from a generator of this page, so a seed gives the same story in this page, and another one in PyTorch.

/** Random numbers in [0, 1) from a seed below 2^53: sfc32, which is small and passes PractRand. */
export function randomNumbers(seed) {
  let [a, b, c, counter] = [seed | 0, Math.floor(seed / 2 ** 32) | 0, 0x9e3779b9 | 0, 1];
  const next = () => {
    const sum = (((a + b) | 0) + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (c << 21) | (c >>> 11);
    c = (c + sum) | 0;
    return (sum >>> 0) / 2 ** 32;
  };
  for (let i = 0; i < 15; i++) next(); // similar seeds are far apart after that
  return next;
}

export function likeliest(scores) {
  let best = 0;
  for (let id = 1; id < scores.length; id++) if (scores[id] > scores[best]) best = id;
  return best;
}

/** The tokens to draw from, the likeliest first, and their probabilities. seen: the ids of the story so far. */
export function candidates(logits, seen, { temperature, top_k, top_p, repetition_penalty: penalty }) {
  const scores = Float64Array.from(logits);
  for (const id of new Set(seen)) scores[id] = scores[id] < 0 ? scores[id] * penalty : scores[id] / penalty;
  const least = top_k && top_k < scores.length ? kthHighest(scores, top_k) : -Infinity;
  let ids = [];
  for (let id = 0; id < scores.length; id++) if (scores[id] >= least) ids.push(id);
  ids.sort((one, other) => scores[other] - scores[one] || one - other);
  let weights = ids.map((id) => Math.exp((scores[id] - scores[ids[0]]) / temperature));
  const enough = top_p * total(weights);
  let kept = 0;
  for (let sum = 0; kept < ids.length && (sum < enough || top_p >= 1); kept++) sum += weights[kept];
  ids = ids.slice(0, kept);
  weights = weights.slice(0, kept);
  const all = total(weights);
  return { ids, probabilities: weights.map((weight) => weight / all) };
}

export function draw({ ids, probabilities }, random) {
  let left = random;
  for (let i = 0; i < ids.length - 1; i++) {
    left -= probabilities[i];
    if (left < 0) return ids[i];
  }
  return ids.at(-1);
}

function total(numbers) {
  return numbers.reduce((sum, number) => sum + number, 0);
}

/** Insertion into a short sorted list: k is far below the size of the vocabulary. */
function kthHighest(scores, k) {
  const highest = new Float64Array(k).fill(-Infinity); // ascending
  for (const score of scores) {
    if (score <= highest[0]) continue;
    let at = 0;
    for (; at + 1 < k && highest[at + 1] < score; at++) highest[at] = highest[at + 1];
    highest[at] = score;
  }
  return highest[0];
}

/** The natural logarithm of the sum of exponentials. */
export function logSumExp(logits) {
  const most = logits[likeliest(logits)];
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - most);
  return most + Math.log(sum);
}
