//! Tables, for a terminal and for Markdown.

/// Rows of text under a head.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|&name| name.to_owned()).collect()] }
    }

    /// Whether it has nothing but its head.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() <= 1
    }

    /// Adds a row with as many cells as the head.
    pub(crate) fn add(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// Aligned with spaces. A first cell that is the same as above is left out.
    pub(crate) fn text(&self) -> String {
        let widths = self.widths();
        let mut text = String::new();
        let mut above = "";
        for row in &self.rows {
            let mut line = String::new();
            for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let cell = if index == 0 && cell == above { "" } else { cell };
                line += &format!("{cell:width$}  ");
            }
            above = row.first().map_or("", String::as_str);
            text += line.trim_end();
            text.push('\n');
        }
        text
    }

    /// With bars.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        for (index, row) in self.rows.iter().enumerate() {
            text += &format!("| {} |\n", row.join(" | "));
            if index == 0 {
                text += &format!("|{}\n", " --- |".repeat(row.len()));
            }
        }
        text
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width =
            |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        (0..columns).map(|column| width(column).unwrap_or(0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["a", "long"]);
        table.add(vec!["1".to_owned(), "x".to_owned()]);
        table.add(vec!["1".to_owned(), "y".to_owned()]);
        table
    }

    #[test]
    fn columns_line_up_and_repetitions_go() {
        assert_eq!(table().text(), "a  long\n1  x\n   y\n");
    }

    #[test]
    fn markdown_repeats() {
        assert_eq!(table().markdown(), "| a | long |\n| --- | --- |\n| 1 | x |\n| 1 | y |\n");
    }
}
