/// The report as a page.
struct Chart {
    let report: Report
    init(_ report: Report) { self.report = report }
    var html: String { "" }
}
