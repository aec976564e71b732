"""The synthetic shop: an outdoor-and-home shop generated from a seed, so that everything runs without a download.

A shop folder holds these files:

* `corpus.jsonl`: the products, {id, title, text}, in catalogue language.
* `rewriting.jsonl`: query rewriting records: {id, group, query, history, rewrite, needs_rewrite, protected, split,
  kind}, and `turn` in conversations. All queries, turns and rewrites are in lower case, article numbers excepted. A
  rewrite keeps the word order of the query and drops words that do not describe the product ("looking for", "please").
* `qrels.txt`: TREC judgments of every record (see `judgments`); an unlisted product has grade 0. Their card says
  `synthetic`: they follow from the rules of the shop.
* `intent.jsonl`: intent records: {id, group, query, object, split, kind}; `object` conforms to `intent.schema.json`
  (see `intents`).
* `judgment.jsonl`: judgment records: {id, group, query, passage, title, grade, split, kind}: some products for one in
  four of the stand-alone rewriting queries, graded as in `qrels.txt` (see `judgments`).
* `embedding.jsonl`: embedding records: {id, group, query, positive, document, negatives, split, kind}; `id` is the id
  of the query in `qrels.txt` (see `judgments`).
* `help/articles.jsonl`: the articles of the help centre, {id, title, text} (see `help_centre`).
* `rag_answer.jsonl`: rag_answer records: {id, group, question, history, passages, answer, gold, answerable, split,
  kind}; an answer cites its passages or abstains (see `help_centre`).
* `vocabulary.json`: shopper word -> catalogue term, the dictionary of the baseline `dictionary_rewrite`.
* `shop.json`: the card: seed, counts, sha256 of the files, and the statement that the data is synthetic.

Kinds of record: `plain` (catalogue language; needs no rewrite), `slang`, `misspelling`, `unit` (another notation of a
measure or size), `ambiguous` (a word whose meaning depends on the rest of the query), `code` (an article number),
`conversation` (turns 2 and 3; about one in fifteen opens a new topic and needs no rewrite) and, in test only,
`unseen-word`. Kinds overlap: a `misspelling` may contain a shopper word too; the label names the hardest part.

Validation and test differ from train in:

* product families (type, brand, line, model): the `group` of a record is the family of its product, and no family is
  the target of records in two splits;
* combinations: the exact set of requested product type and attribute values, brand and line aside, occurs in one
  split only (a larger or a smaller set may occur in another);
* misspellings: no misspelling of validation or test occurs in train;
* the words of kind `unseen-word`, in test only: they occur in no other record and not in `vocabulary.json`.

They share the product types, the catalogue values and most of the shopper words: the language to be learned. The
judgments of a train record may list products of a test family. A rewriter never sees them; training on judgments has
to leave those products out.
"""

from __future__ import annotations

from searchlora.shop.vocabulary import dictionary_rewrite
from searchlora.shop.write import ShopCard, make_shop, read_card

__all__ = ["ShopCard", "dictionary_rewrite", "make_shop", "read_card"]
