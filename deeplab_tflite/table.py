"""What all results have in common: rows, which a notebook shows and pandas reads."""

import abc
import math
from typing import TYPE_CHECKING, Any

import jinja2

from tflite_tools.text_table import align

if TYPE_CHECKING:
    import pandas

_TEMPLATE = jinja2.Environment(autoescape=True).from_string(
    """<table>
<thead><tr>{% for name in names %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table>
{% for note in notes %}<p>{{ note }}</p>
{% endfor %}"""
)


class Table(abc.ABC):
    """A result that can be read as a table."""

    @abc.abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """Returns one dictionary for each row, with the same keys; None for what is not known."""

    def notes(self) -> list[str]:
        """Returns what a reader of the table must know, one line each."""
        return []

    def to_dataframe(self) -> "pandas.DataFrame":
        """Returns the rows as a pandas.DataFrame.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas  # noqa: PLC0415 - nothing else here needs it
        except ImportError as error:
            raise ImportError(
                "to_dataframe needs pandas, which is not installed; run pip install pandas, or "
                "use rows()"
            ) from error
        return pandas.DataFrame(self.rows())

    def __repr__(self) -> str:
        rows = self.rows()
        # Numbers to the right, as in the tables of the commands.
        numbers = {name for row in rows for name, value in row.items() if isinstance(value, float)}
        header = [(name, ">" if name in numbers else "<") for name in (rows[0] if rows else {})]
        table = align(header, [[_cell(value) for value in row.values()] for row in rows])
        return "\n".join([f"{type(self).__name__}:", table, *self.notes()])

    def _repr_html_(self) -> str:
        rows = self.rows()
        return _TEMPLATE.render(
            names=list(rows[0]) if rows else [],
            rows=[[_cell(value) for value in row.values()] for row in rows],
            notes=self.notes(),
        )


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
