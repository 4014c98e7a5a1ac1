/* What order.c says, for vectors of WIDTH numbers; NAME(name) is a name of this width's. */

#define Lanes NAME(Lanes)
#define Floats NAME(Floats)
#define Doubles NAME(Doubles)
#define Known NAME(Known)
#define TOGETHER (64 / WIDTH) /* tiles that are copied in one go */

typedef int32_t Lanes __attribute__((vector_size(4 * WIDTH)));
typedef float Floats __attribute__((vector_size(4 * WIDTH)));
typedef double Doubles __attribute__((vector_size(8 * WIDTH)));

/* What is known of a rank: its value is in [low, high]. */
typedef struct {
  Lanes low, high;
  Lanes below; /* how many are less than low: no more than the rank */
  Lanes upto;  /* how many are no greater than high: more than the rank */
} Known;

EVERYWHERE int NAME(any)(const Lanes *mask) {
  int32_t found = 0;
  for (int j = 0; j < WIDTH; j++) found |= (*mask)[j];
  return found;
}

EVERYWHERE void NAME(floats_of)(Floats *floats, const Lanes *ordered) {
  Lanes bits = ORDERED(*ordered);
  memcpy(floats, &bits, sizeof bits);
}

/* Where to cut: low <= cut < high, but where they are one. */
EVERYWHERE void NAME(next_cut)(Lanes *cut, const Known *known, int32_t rank, int turn) {
  if (turn % 3 == 2) {
    *cut = (known->low & known->high) + ((known->low ^ known->high) >> 1);
    return;
  }
  Floats from, to;
  NAME(floats_of)(&from, &known->low);
  NAME(floats_of)(&to, &known->high);
  Floats wanted = __builtin_convertvector(rank - known->below, Floats) + 0.5f;
  Floats place = from + (to - from) * wanted /
                            __builtin_convertvector(known->upto - known->below, Floats);
  Lanes bits;
  memcpy(&bits, &place, sizeof bits);
  bits = ORDERED(bits);
  bits = LEAST(bits, known->high - 1);
  *cut = MOST(bits, known->low);
}

EVERYWHERE void NAME(count_upto)(Lanes *count, const Lanes *tile, int64_t n, const Lanes *cut) {
  Lanes limit = *cut, even = {0}, odd = {0};
  for (int64_t i = 0; i + 1 < n; i += 2) {
    even -= tile[i] <= limit;
    odd -= tile[i + 1] <= limit;
  }
  if (n & 1) even -= tile[n - 1] <= limit;
  *count = even + odd;
}

/* The greatest number up to a limit. Of numbers whose bits are turned it is the least from one on:
 * turned is -1 in such columns. Four are found at once, as each waits for the one before it. */
EVERYWHERE void NAME(greatest_upto)(Lanes *found, const Lanes *tile, int64_t n, const Lanes *limit,
                                    const Lanes *turned) {
  Lanes upto = *limit, turn = *turned, none = turn * 0 + INT32_MIN;
  Lanes most[4] = {none, none, none, none};
  int64_t i = 0;
  for (; i + 3 < n; i += 4) {
    for (int k = 0; k < 4; k++) {
      Lanes own = tile[i + k] ^ turn, better = (own <= upto) & (own > most[k]);
      most[k] = CHOSEN(better, own, most[k]);
    }
  }
  for (; i < n; i++) {
    Lanes own = tile[i] ^ turn, better = (own <= upto) & (own > most[0]);
    most[0] = CHOSEN(better, own, most[0]);
  }
  most[0] = MOST(most[0], most[1]);
  most[2] = MOST(most[2], most[3]);
  *found = MOST(most[0], most[2]);
}

/* Move the end of what is known, high where the mask says so, else low, to a number there is. */
EVERYWHERE void NAME(snap)(Known *known, const Lanes *tile, int64_t n, const Lanes *mask) {
  Lanes turned = ~*mask, found, limit = CHOSEN(*mask, known->high, ~known->low);
  NAME(greatest_upto)(&found, tile, n, &limit, &turned);
  known->high = CHOSEN(*mask, found, known->high);
  known->low = CHOSEN(*mask, known->low, ~found);
}

/* The value of a rank, from 0, in each column of n. */
EVERYWHERE void NAME(value_of_rank)(Lanes *value, const Lanes *tile, int64_t n, int32_t rank) {
  Lanes none = {0}, all = none - 1, most = none + INT32_MAX, found;
  Known known = {none, none, none, none + (int32_t)n};
  NAME(greatest_upto)(&known.high, tile, n, &most, &none);
  NAME(greatest_upto)(&found, tile, n, &most, &all);
  known.low = ~found;
  for (int turn = 0;; turn++) {
    Lanes open = (known.low != known.high) & (known.upto != rank + 1) & (known.below != rank);
    if (!NAME(any)(&open)) break;
    Lanes cut, count;
    NAME(next_cut)(&cut, &known, rank, turn);
    NAME(count_upto)(&count, tile, n, &cut);
    Lanes enough = count > rank;
    known.high = CHOSEN(enough, cut, known.high);
    known.upto = CHOSEN(enough, count, known.upto);
    known.low = CHOSEN(enough, known.low, cut + 1);
    known.below = CHOSEN(enough, known.below, count);
    if (turn % 6 == 5) NAME(snap)(&known, tile, n, &enough); /* many that are equal end here */
  }
  Lanes last = known.below != rank;
  NAME(snap)(&known, tile, n, &last);
  *value = CHOSEN(last, known.high, known.low);
}

EVERYWHERE void NAME(median_of)(Floats *out, const Lanes *tile, int64_t n) {
  Lanes first, second, upto = {0};
  NAME(value_of_rank)(&first, tile, n, (int32_t)((n - 1) / 2));
  second = first;
  if (n % 2 == 0) {
    second = upto + INT32_MAX;
    for (int64_t i = 0; i < n; i++) {
      upto -= tile[i] <= first;
      second = CHOSEN((tile[i] > first) & (tile[i] < second), tile[i], second);
    }
    second = CHOSEN(upto > (int32_t)(n / 2), first, second);
  }
  Floats one, other;
  NAME(floats_of)(&one, &first);
  NAME(floats_of)(&other, &second);
  Doubles both = __builtin_convertvector(one, Doubles) + __builtin_convertvector(other, Doubles);
  *out = __builtin_convertvector(both * 0.5, Floats) + 0.0f;
}

/* The mean of what is left without the f least and the f greatest; n > 2 f. */
EVERYWHERE void NAME(trimmed_of)(Floats *out, const Lanes *tile, int64_t n, int32_t f) {
  Lanes first, last, upto = {0}, below = {0};
  NAME(value_of_rank)(&first, tile, n, f);
  NAME(value_of_rank)(&last, tile, n, (int32_t)n - f - 1);
  Doubles sum = {0};
  for (int64_t i = 0; i < n; i++) {
    Lanes inside = ORDERED(tile[i]) & (tile[i] > first) & (tile[i] < last);
    Floats own;
    memcpy(&own, &inside, sizeof own);
    sum += __builtin_convertvector(own, Doubles);
    upto -= tile[i] <= first;
    below -= tile[i] < last;
  }
  Floats one, other;
  NAME(floats_of)(&one, &first);
  NAME(floats_of)(&other, &last);
  Doubles low = __builtin_convertvector(one, Doubles), high = __builtin_convertvector(other, Doubles);
  sum += low * __builtin_convertvector(upto - f, Doubles);
  sum += high * __builtin_convertvector((int32_t)n - f - below, Doubles);
  Floats mean = __builtin_convertvector(sum / (double)(n - 2 * (int64_t)f), Floats);
  Lanes same = first == last, bits, alike;
  memcpy(&bits, &mean, sizeof bits);
  memcpy(&alike, &one, sizeof alike);
  bits = CHOSEN(same, alike, bits);
  memcpy(out, &bits, sizeof bits);
  *out += 0.0f;
}

/* The mean of the n - 2 f nearest to the median; what is just as far as the last of them shares
 * the places that are left. The distances are held beside the tile. */
EVERYWHERE void NAME(around_of)(Floats *out, const Lanes *tile, int64_t n, int32_t f, Lanes *away) {
  Floats centre, own;
  NAME(median_of)(&centre, tile, n);
  for (int64_t i = 0; i < n; i++) {
    NAME(floats_of)(&own, tile + i);
    own -= centre;
    memcpy(away + i, &own, sizeof own);
    away[i] &= 0x7fffffff;
  }
  Lanes limit, nearer = {0}, alike = {0};
  int32_t kept = (int32_t)n - 2 * f;
  NAME(value_of_rank)(&limit, away, n, kept - 1);
  Doubles sum = {0}, shared = {0};
  for (int64_t i = 0; i < n; i++) {
    Lanes bits = ORDERED(tile[i]), within = away[i] < limit, at = away[i] == limit;
    Lanes near = bits & within, far = bits & at;
    memcpy(&own, &near, sizeof own);
    sum += __builtin_convertvector(own, Doubles);
    memcpy(&own, &far, sizeof own);
    shared += __builtin_convertvector(own, Doubles);
    nearer -= within;
    alike -= at;
  }
  shared *= __builtin_convertvector(kept - nearer, Doubles);
  sum += shared / __builtin_convertvector(alike, Doubles);
  *out = __builtin_convertvector(sum / (double)kept, Floats) + 0.0f;
}

/* Some columns of the chosen rows, as tiles one after the other; zero beyond the last column. */
EVERYWHERE void NAME(copy)(Lanes *tiles, const float *rows, const int64_t *chosen, int64_t n,
                     int64_t stride, int64_t columns) {
  for (int64_t i = 0; i < n; i++) {
    Lanes bits[TOGETHER] = {{0}};
    memcpy(bits, rows + chosen[i] * stride, 4 * (size_t)columns);
    for (int t = 0; t < TOGETHER; t++) tiles[t * n + i] = ORDERED(bits[t]);
  }
}

static void NAME(by_column)(const float *rows, const int64_t *chosen, int64_t n, int64_t stride,
                            int64_t columns, int32_t rule, int32_t f, Lanes *tiles, float *out) {
  Lanes *away = tiles + TOGETHER * n;
  for (int64_t start = 0; start < columns; start += 64) {
    int64_t size = columns - start < 64 ? columns - start : 64;
    NAME(copy)(tiles, rows + start, chosen, n, stride, size);
    for (int64_t t = 0; t * WIDTH < size; t++) {
      int64_t width = size - t * WIDTH < WIDTH ? size - t * WIDTH : WIDTH;
      Floats found;
      if (rule == MEDIAN) NAME(median_of)(&found, tiles + t * n, n);
      else if (rule == TRIMMED) NAME(trimmed_of)(&found, tiles + t * n, n, f);
      else NAME(around_of)(&found, tiles + t * n, n, f, away);
      memcpy(out + start + t * WIDTH, &found, 4 * (size_t)width);
    }
  }
}

#undef Lanes
#undef Floats
#undef Doubles
#undef Known
#undef TOGETHER
