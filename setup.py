"""What pyproject.toml cannot say: where ROS 2 looks for the package, its launch files and its parameters."""

from glob import glob

from setuptools import Distribution, setup


class ReadableDistribution(Distribution):
    """colcon reads what ``setup.py`` says as Python literals, and would stumble over a parsed version specifier."""

    def parse_config_files(self, *arguments, **options):
        """Read pyproject.toml and setup.cfg."""
        super().parse_config_files(*arguments, **options)
        for holder in (self, self.metadata):
            vars(holder)["python_requires"] = str(vars(holder).get("python_requires") or "")


setup(
    distclass=ReadableDistribution,
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/vla_stack"]),
        ("share/vla_stack", ["package.xml"]),
        ("share/vla_stack/launch", sorted(glob("launch/*.launch.py"))),
        ("share/vla_stack/config", sorted(glob("launch/*.yaml"))),
    ],
)
