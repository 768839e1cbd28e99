"""Pages that people read: one self-contained HTML file each, tables also as CSV and LaTeX, figures as SVG and PNG."""
