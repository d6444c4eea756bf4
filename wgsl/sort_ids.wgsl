// Of a batch's routes, (token, expert) pairs in the order of their experts, in tiles of up to {{ tile }} of one expert's: y is the
// number of tiles, of each its expert, its first pair and how many there are, and from word {{ pairs_at }} on the pairs, token * {{ used }} + i.
{% include "common/bindings.wgsl" %}
const USED = {{ used }}u;
var<workgroup> count: array<atomic<u32>, {{ n_expert }}>;
var<workgroup> first: array<u32, {{ n_expert }}>;
{% set id = "min(routes[p / USED * %du + p %% USED], %du)" % (pitch, n_expert - 1) %}

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(local_invocation_index) local: u32) {
  for (var e = local; e < {{ n_expert }}u; e += {{ workgroup }}u) { atomicStore(&count[e], 0u); }  // not every driver has zeros there
  workgroupBarrier();
  let pairs = batch[{{ io.n_tokens }}u] * USED;
  for (var p = local; p < pairs; p += {{ workgroup }}u) { atomicAdd(&count[{{ id }}], 1u); }
  workgroupBarrier();
  if (local == 0u) {
    var at = 0u;
    var tiles = 0u;
    for (var e = 0u; e < {{ n_expert }}u; e++) {
      let mine = atomicExchange(&count[e], 0u);
      first[e] = at;
      for (var i = 0u; i < mine; i += {{ tile }}u) {
        y[1u + 3u * tiles] = e;
        y[2u + 3u * tiles] = at + i;
        y[3u + 3u * tiles] = min(mine - i, {{ tile }}u);
        tiles++;
      }
      at += mine;
    }
    y[0] = tiles;
  }
  workgroupBarrier();
  for (var p = local; p < pairs; p += {{ workgroup }}u) {
    let e = {{ id }};
    y[{{ pairs_at }}u + first[e] + atomicAdd(&count[e], 1u)] = p;
  }
}
