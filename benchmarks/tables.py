"""Tables of Markdown."""


def markdown(table, digits):
    """Return a data frame as a table; ``digits`` for all columns or by column."""
    lines = [["", *table.columns], ["---"] + ["---:"] * len(table.columns)]
    for name, row in zip(table.index, table.to_numpy(), strict=True):
        numbers = zip(row, table.columns, strict=True)
        lines.append([name, *(_number(value, digits, key) for value, key in numbers)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value, digits, key):
    decimals = digits[key] if isinstance(digits, dict) else digits
    return "" if value != value else f"{value:.{decimals}f}"
