/* A text is first parted at added tokens, then cut by the pattern
 *
 *   (?i:'s|'t|'re|'ve|'m|'ll|'d) | [^\r\n\p{L}\p{N}]?\p{L}+ | \p{N} | ?[^\s\p{L}\p{N}]+[\r\n]*
 *   | \s*[\r\n]+ | \s+(?!\S) | \s+
 *
 * whose alternatives are the functions below, in that order; each piece is then merged on its own. */
#include "tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "unicode_classes.h"

typedef struct {
    uint64_t pair;
    uint32_t rank, joined;
} RankedMerge;

struct Tokenizer {
    const Container *container;
    int32_t of_byte[256];
    RankedMerge *merges; /* by pair */
};

static int by_pair(const void *a, const void *b) {
    uint64_t left = ((const RankedMerge *)a)->pair, right = ((const RankedMerge *)b)->pair;
    return (left > right) - (left < right);
}

static uint64_t pair_of(uint32_t left, uint32_t right) { return (uint64_t)left << 32 | right; }

Tokenizer *tokenizer_new(const Container *container) {
    Tokenizer *made = calloc(1, sizeof *made);
    made->container = container;
    for (uint32_t id = 0; id < container->n_tokens; id++) {
        const Token *token = &container->tokens[id];
        if (token->kind == TOKEN_NORMAL && token->text.length == 1)
            made->of_byte[(unsigned char)token->text.bytes[0]] = id;
    }
    made->merges = calloc(container->n_merges + 1, sizeof *made->merges);
    for (uint32_t i = 0; i < container->n_merges; i++) {
        const Merge *merge = &container->merges[i];
        made->merges[i] = (RankedMerge){pair_of(merge->left, merge->right), i, merge->joined};
    }
    qsort(made->merges, container->n_merges, sizeof *made->merges, by_pair);
    return made;
}

void tokenizer_free(Tokenizer *tokenizer) {
    if (!tokenizer) return;
    free(tokenizer->merges);
    free(tokenizer);
}

/* Characters. */

typedef enum { OTHER, IS_LETTER, IS_NUMBER, IS_SPACE } Class;

static bool within(uint32_t code, const uint32_t (*ranges)[2], size_t count) {
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (code > ranges[middle][1]) low = middle + 1;
        else high = middle;
    }
    return low < count && code >= ranges[low][0];
}

#define WITHIN(code, ranges) within(code, ranges, sizeof ranges / sizeof *ranges)

static Class class_of(uint32_t code) {
    if (WITHIN(code, LETTER)) return IS_LETTER;
    if (WITHIN(code, NUMBER)) return IS_NUMBER;
    return WITHIN(code, SPACE) ? IS_SPACE : OTHER;
}

typedef struct {
    uint32_t code;
    uint32_t start; /* in bytes */
    Class class;
} Character;

/* Decodes one character; a byte that begins none stands for itself, as U+FFFD. */
static size_t decode(const unsigned char *at, size_t left, uint32_t *code) {
    size_t length = *at < 0x80 ? 1 : *at >= 0xF0 ? 4 : *at >= 0xE0 ? 3 : *at >= 0xC2 ? 2 : 0;
    *code = 0xFFFD;
    if (!length || length > left) return 1;
    uint32_t found = length == 1 ? *at : *at & (0x7F >> length);
    for (size_t i = 1; i < length; i++) {
        if ((at[i] & 0xC0) != 0x80) return 1;
        found = found << 6 | (at[i] & 0x3F);
    }
    *code = found;
    return length;
}

static Character *characters(const char *text, size_t length, size_t *count) {
    Character *found = malloc((length + 1) * sizeof *found);
    size_t n = 0;
    for (size_t at = 0; at < length; n++) {
        found[n].start = at;
        at += decode((const unsigned char *)text + at, length - at, &found[n].code);
        found[n].class = class_of(found[n].code);
    }
    found[n] = (Character){.start = length};
    *count = n;
    return found;
}

/* The pattern. Each alternative says how many characters it takes from `at`, or 0. */

static bool is_newline(Character c) { return c.code == '\r' || c.code == '\n'; }

static uint32_t folded(uint32_t code) {
    if (code == 0x17F) return 's'; /* the long s */
    return code >= 'A' && code <= 'Z' ? code + 32 : code;
}

static size_t contraction(const Character *at, size_t left) {
    static const char *const ends[] = {"s", "t", "re", "ve", "m", "ll", "d"};
    if (at->code != '\'') return 0;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t length = strlen(ends[i]), same = 0;
        while (same < length && same + 1 < left && folded(at[same + 1].code) == (uint32_t)ends[i][same]) same++;
        if (same == length) return length + 1;
    }
    return 0;
}

static size_t word(const Character *at, size_t left) {
    size_t start = at->class != IS_LETTER && at->class != IS_NUMBER && !is_newline(*at) ? 1 : 0;
    size_t n = start;
    while (n < left && at[n].class == IS_LETTER) n++;
    return n > start ? n : 0;
}

static size_t punctuation(const Character *at, size_t left) {
    size_t start = at->code == ' ', n = start;
    while (n < left && at[n].class == OTHER) n++;
    if (n == start) return 0;
    while (n < left && is_newline(at[n])) n++;
    return n;
}

static size_t space(const Character *at, size_t left) {
    size_t run = 0, past_newline = 0;
    while (run < left && at[run].class == IS_SPACE) {
        run++;
        if (is_newline(at[run - 1])) past_newline = run;
    }
    if (past_newline) return past_newline;
    return run < left && run > 1 ? run - 1 : run; /* the last space goes with what follows */
}

static size_t piece(const Character *at, size_t left) {
    size_t n = contraction(at, left);
    if (!n) n = word(at, left);
    if (!n && at->class == IS_NUMBER) n = 1;
    if (!n) n = punctuation(at, left);
    return n ? n : space(at, left);
}

/* Merging. */

static const RankedMerge *merge_of(const Tokenizer *tokenizer, int32_t left, int32_t right) {
    RankedMerge key = {.pair = pair_of(left, right)};
    return bsearch(&key, tokenizer->merges, tokenizer->container->n_merges, sizeof key, by_pair);
}

/* Joins the pair learnt earliest, leftmost first, until no pair is known. Returns the new count. */
static int join(const Tokenizer *tokenizer, int32_t *ids, int count) {
    for (;;) {
        const RankedMerge *best = NULL;
        int where = 0;
        for (int i = 0; i + 1 < count; i++) {
            const RankedMerge *found = merge_of(tokenizer, ids[i], ids[i + 1]);
            if (found && (!best || found->rank < best->rank)) {
                best = found;
                where = i;
            }
        }
        if (!best) return count;
        ids[where] = best->joined;
        memmove(ids + where + 1, ids + where + 2, (count - where - 2) * sizeof *ids);
        count--;
    }
}

static int encode_plain(const Tokenizer *tokenizer, const char *text, size_t length, int32_t *out) {
    size_t n;
    Character *chars = characters(text, length, &n);
    int count = 0;
    for (size_t at = 0; at < n;) {
        size_t taken = piece(chars + at, n - at);
        int bytes = 0;
        for (uint32_t i = chars[at].start; i < chars[at + taken].start; i++)
            out[count + bytes++] = tokenizer->of_byte[(unsigned char)text[i]];
        count += join(tokenizer, out + count, bytes);
        at += taken;
    }
    free(chars);
    return count;
}

/* The longest added token that begins here, or -1. */
static int32_t added_at(const Container *container, const char *text, size_t left) {
    int32_t best = -1;
    for (uint32_t id = container->n_tokens; id-- > 0;) {
        const Token *token = &container->tokens[id];
        if (token->kind == TOKEN_NORMAL) break; /* added tokens come last */
        if (token->text.length <= left && !memcmp(token->text.bytes, text, token->text.length) &&
            (best < 0 || token->text.length > container->tokens[best].text.length))
            best = id;
    }
    return best;
}

int32_t *tokenizer_encode(const Tokenizer *tokenizer, const char *text, size_t length, int *count) {
    const Container *container = tokenizer->container;
    int32_t *ids = malloc((length + 1) * sizeof *ids);
    size_t plain = 0;
    *count = 0;
    for (size_t at = 0; at < length;) {
        int32_t added = added_at(container, text + at, length - at);
        if (added < 0) {
            at++;
            continue;
        }
        *count += encode_plain(tokenizer, text + plain, at - plain, ids + *count);
        ids[(*count)++] = added;
        plain = at += container->tokens[added].text.length;
    }
    *count += encode_plain(tokenizer, text + plain, length - plain, ids + *count);
    return ids;
}
