"""What the docstrings of this package have that Markdown does not know: Sphinx's roles, and examples after >>>."""
import re

import griffe


class Docstrings(griffe.Extension):
    """Names its roles by the name alone, sets examples in code blocks, and shows a name where it is defined only."""

    def on_package(self, *, pkg, **kwargs):
        """Called by griffe with the package that it has read."""
        packages = [pkg]
        for package in packages:
            packages += [module for module in package.modules.values() if module.is_init_module and not module.is_alias]
            for name in [name for name, member in package.members.items() if member.is_alias]:
                package.del_member(name)

    def on_object(self, *, obj, **kwargs):
        """Called by griffe with everything that it has read."""
        if obj.docstring is not None:
            text = re.sub(r":(?:func|class|mod|meth|data|attr):(?=`)", "", obj.docstring.value)
            obj.docstring.value = re.sub(r"^( *)(>>> .*(?:\n(?! *$).*)*)", _fenced, text, flags=re.MULTILINE)


def _fenced(match):
    indent, lines = match.groups()
    return f"{indent}```pycon\n{indent}{lines}\n{indent}```"
