"""The made shop: an outdoor-and-home shop from one seed, so that everything runs without a download.

A shop's folder has these files:

* `corpus.jsonl`: the products, {id, title, text}, in the catalogue's language.
* `rewriting.jsonl`: records of query rewriting: {id, group, query, history, rewrite, needs_rewrite, protected, split,
  kind} and `turn` in conversations. Everything a shopper says and every rewrite is in lower case; article numbers are
  not. A rewrite keeps the order of the query and drops what says nothing about the product ("looking for", "please").
* `qrels.txt`: TREC judgments for every record (see `judgments`); a product not listed has grade 0.
* `intent.jsonl`: records of the intent task: {id, group, query, object, split, kind}; `object` fits
  `intent.schema.json` (see `intents`).
* `judgment.jsonl`: records of the judgment task: {id, group, query, passage, title, grade, split, kind}; some products
  for one in four of the queries of rewriting that stand alone, graded as in `qrels.txt` (see `pairs`).
* `embedding.jsonl`: records of the embedding task: {id, group, query, positive, document, negatives, split, kind}; the
  id is the query's in `qrels.txt` (see `pairs`).
* `categories.jsonl`: titles to be sorted into the shop's categories: {id, group, title, category, split} (see
  `titles`).
* `help/articles.jsonl`: the articles of the help centre, {id, title, text} (see `help_centre`).
* `rag_answer.jsonl`: records of the rag_answer task: {id, group, question, history, passages, answer, gold, answerable,
  split, kind}; the answers cite their passages or abstain (see `answers`).
* `vocabulary.json`: shopper's word -> catalogue term, the dictionary of the baseline `dictionary_rewrite`.
* `shop.json`: the card: seed, counts, sha256 of the files, and that all of this is made.

Kinds of record: `plain` (catalogue language already: leave it alone), `slang`, `misspelling`, `unit` (another
notation of a measure or size), `ambiguous` (a word whose meaning depends on the rest of the query), `code` (an article
number), `conversation` (turns 2 and 3; about one in fifteen opens a new topic and is to be left alone) and, in test
only, `unseen-word`. Kinds mix: a `misspelling` may also have a shopper's word in it; the label names the hardest part.

What test (and validation) has that train has not:

* product families (type, brand, line, model): a record's `group` is the family of the product it was written for, and
  no family is the target of records in two splits;
* combinations: the exact set of product type and attribute values asked for, brand and line aside, occurs in one
  split only (a larger or a smaller set may occur in another);
* wrong forms: a misspelling that test or validation has is none that train has;
* the words of kind `unseen-word`, in test only: they are in no other record and not in `vocabulary.json`.

What they share: the product types, the catalogue's values and most of the shoppers' words, which are the language to
be learned. The judgments of a train record may list products of a test family: they are no secret for a rewriter,
but whoever trains on judgments has to leave those products out.
"""

from __future__ import annotations

from searchlora.shop.vocabulary import dictionary_rewrite
from searchlora.shop.write import ShopCard, make_shop, read_card

__all__ = ["ShopCard", "dictionary_rewrite", "make_shop", "read_card"]
