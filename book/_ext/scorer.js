// How the search orders its results: Sphinx's own scores, which a project's scorer has to repeat, and one rule more. Of
// two pages that answer alike, the guide's comes first. What it adds is less than a title counts over a mention in the
// text, so that a page about the subject still comes before a guide page that only names it.
var Scorer = {
  score: ([page, , , , score]) => score + (page.startsWith("book/use/") ? 3 : /^book\/(run|scale)$/.test(page) ? 2 : 0),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
